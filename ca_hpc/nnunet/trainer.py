"""A training loop of our own, put over any nnU-Net trainer class.

What is trained and how well (network, loss, augmentation, schedule) stays the trainer's own; here
are its course and its interruptions: any number of epochs and iterations, batches numbered by
position, atomic checkpoints, a stop after any iteration on request or when the job is about to end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.attempt_files import resume_folder
from ca_hpc.nnunet.batches import BatchStream, seed_generators, seeded
from ca_hpc.nnunet.checkpoints import OUR_KEY, Emit, plain, replacing
from ca_hpc.nnunet.course import Course
from ca_hpc.nnunet.encoder import encoder_of, freeze, thaw
from ca_hpc.nnunet.interruption import Interrupted
from ca_hpc.nnunet.pace import Clock, Pace, Work
from ca_hpc.nnunet.pretrained import unwrapped
from ca_hpc.nnunet.resume_files import Position, Resume, supersede, write_resume
from ca_hpc.nnunet.warm_up import warmed_up

PLOT_EVERY_S: Final = 900.0  # progress.png is 30 x 54 inches and takes seconds


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a training is carried out, as opposed to what is trained.

    ``attempts``: folders of the task's attempts, oldest first, this one last.
    """

    course: Course
    workers: int
    checkpoint_every_s: float
    attempts: Sequence[Path]
    emit: Emit
    pace: Pace

    @property
    def clock(self) -> Clock:
        return self.pace.clock


def composed(base: type) -> type:
    """``base`` with our loop. It keeps its name, which checkpoints and results folders carry."""
    return type(base.__name__, (TrainerMixin, base), {"__module__": __name__})


def gpu_peak_mib(device: torch.device) -> dict[str, int | None]:
    """The most GPU memory that this process has held so far, in MiB; None on the CPU.

    Allocated: in tensors. Reserved: by torch for them. The CUDA context comes on top.
    """
    if device.type != "cuda":
        return {"gpu_allocated_mib": None, "gpu_reserved_mib": None}
    return {
        "gpu_allocated_mib": torch.cuda.max_memory_allocated(device) >> 20,
        "gpu_reserved_mib": torch.cuda.max_memory_reserved(device) >> 20,
    }


def check_split(splits_file: Path, *, fold: int, cases: frozenset[str]) -> None:
    """Raise CaHpcError unless the file has the fold, and all its cases are preprocessed.

    nnU-Net would write a random split by case, or silently take a random 80:20 one.
    """
    try:
        splits = json.loads(splits_file.read_text())
    except FileNotFoundError as error:
        raise CaHpcError(
            f"There is no {splits_file}.",
            hint="The preprocess stage writes it, once for all folds and arms.",
        ) from error
    if not 0 <= fold < len(splits):
        raise CaHpcError(
            f"Fold {fold} is not in {splits_file}, which has folds 0 to {len(splits) - 1}.",
            hint="Ask for one of these folds.",
        )
    missing = sorted({*splits[fold]["train"], *splits[fold]["val"]} - cases)
    if missing:
        raise CaHpcError(
            f"Fold {fold} in {splits_file} names {len(missing)} cases that are not "
            f"preprocessed, first {missing[0]}.",
            hint="Preprocess again, or write the splits from the cases that are there.",
        )


class TrainerMixin:
    """Goes before a nnU-Net trainer class; see ``composed``. Call ``conduct_by`` before training.

    It has no ``__init__``: nnU-Net inspects the signature to record the arguments.
    """

    # of nnU-Net's trainer
    network: Any
    optimizer: Any
    grad_scaler: Any
    logger: Any
    device: Any
    fold: int | str
    dataset_class: Any
    dataset_json: dict[str, Any]
    preprocessed_dataset_folder: str
    preprocessed_dataset_folder_base: str
    output_folder: str
    my_init_kwargs: dict[str, Any]
    inference_allowed_mirroring_axes: tuple[int, ...] | None
    current_epoch: int
    num_epochs: int
    num_iterations_per_epoch: int
    num_val_iterations_per_epoch: int
    save_every: int
    disable_checkpointing: bool
    initial_lr: float
    dataloader_train: Any
    dataloader_val: Any
    _best_ema: Any

    _conduct: Conduct
    _outputs: list[dict[str, Any]]  # of the current epoch's iterations, then of its validation's
    _saved: Position | None
    _saved_at: float
    _alone: bool  # no earlier attempt has checkpoints any more
    _plotted_at: float
    _plot_progress: Callable[[str], None]

    def conduct_by(self, conduct: Conduct) -> None:
        """Set the course. To be called once, before ``initialize``.

        Raises CaHpcError where the trainer cannot follow it.
        """
        course = conduct.course
        self._must_be_able_to(course)
        self._conduct = conduct
        self.num_epochs = max(1, course.epochs)  # schedules divide by it
        self.num_iterations_per_epoch = course.iterations_per_epoch
        self.num_val_iterations_per_epoch = course.validation_iterations_per_epoch
        if course.initial_learning_rate is not None:
            self.initial_lr = course.initial_learning_rate
        self.save_every = course.epochs + 1  # no checkpoint_latest.pth: resume files replace it
        self._outputs = []
        self._saved = None
        self._alone = len(conduct.attempts) == 1
        self._saved_at = self._plotted_at = conduct.clock()
        self._plot_progress = self.logger.plot_progress_png
        self.logger.plot_progress_png = self._plot_when_due

    def _must_be_able_to(self, course: Course) -> None:
        own_warm_up = getattr(self, "warmup_duration_whole_net", None)  # nnUNetTrainer_warmup
        if course.warmup_epochs and own_warm_up is not None:
            raise CaHpcError(
                f"{type(self).__name__} has a warm-up of its own, over {own_warm_up} epochs.",
                hint="Leave out warmup_epochs, or take another trainer.",
            )
        if self.disable_checkpointing:
            raise CaHpcError(
                f"{type(self).__name__} saves no checkpoint: nothing would come of its training.",
                hint="Take another trainer; this one is for benchmarks.",
            )

    def initialize(self) -> None:
        """Build network and optimiser. Raises CaHpcError where there is no encoder to freeze."""
        stock: Any = super()
        stock.initialize()
        if self._conduct.course.frozen_encoder_epochs:
            encoder_of(self.network)

    def configure_optimizers(self, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        """The trainer's own optimiser and schedule, the latter after the course's warm-up."""
        stock: Any = super()
        optimizer, schedule = stock.configure_optimizers(*arguments, **options)
        return optimizer, warmed_up(schedule, epochs=self._conduct.course.warmup_epochs)

    def continue_from(self, resume: Resume) -> None:
        """Take over the weights, optimiser and position of a resume file."""
        own_arguments = self.my_init_kwargs
        # The trainer's own method, since some choose their optimiser there. It unpickles freely,
        # but take_over_newest has just read the same file with weights_only.
        trainer: Any = self
        trainer.load_checkpoint(str(resume.file))
        self.my_init_kwargs = own_arguments
        self.logger.load_checkpoint(resume.logging)
        self._best_ema = resume.best_ema
        self._outputs = resume.outputs
        self._saved = resume.position

    def run_training(self) -> None:
        """Train from the current position to the end.

        Raises Interrupted where a signal asked to stop or the job is about to end; then the resume
        file is written. Loader processes are gone in any case.
        """
        trainer: Any = self
        try:
            trainer.on_train_start()
            while self.current_epoch < self._conduct.course.epochs:
                self._run_epoch()
            trainer.on_train_end()
            if self.current_epoch:
                self._plot_progress(self.output_folder)
        finally:
            for stream in (self.dataloader_train, self.dataloader_val):
                if isinstance(stream, BatchStream):
                    stream.close()

    def get_dataloaders(self) -> tuple[BatchStream | None, BatchStream | None]:
        """The trainer's own loaders, drawn from by position; none where nothing is trained."""
        stock: Any = super()
        if self._conduct.course.epochs == 0:
            # What else nnU-Net does here: it finds the axes that predictions are mirrored along.
            stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            return None, None
        with seeded(self._conduct.course.seed, stream="training", index=0):
            # nnU-Net draws one batch from each to warm up; its content goes nowhere.
            loaders = stock.get_dataloaders()
        if not all(isinstance(loader, SingleThreadedAugmenter) for loader in loaders):
            raise CaHpcError(
                f"{type(self).__name__} brings batch loaders that cannot be positioned.",
                hint="Use a trainer that leaves get_dataloaders to nnU-Net, and leave "
                "nnUNet_n_proc_DA at 0.",
            )
        training, validation = (loader.data_loader for loader in loaders)
        epoch, workers = self.current_epoch, self._conduct.workers
        trained, validated = self._done_of_epoch()
        return (
            self._stream(
                training,
                name="training",
                first=epoch * self.num_iterations_per_epoch + trained,
                workers=workers,
            ),
            self._stream(
                validation,
                name="validation",
                first=epoch * self.num_val_iterations_per_epoch + validated,
                workers=math.ceil(workers / 2),
            ),
        )

    def do_split(self) -> tuple[list[str], list[str]]:
        """The cases (training, validation) of the fold, from the splits file and nothing else."""
        stock: Any = super()
        if isinstance(self.fold, int):
            cases = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
            check_split(
                Path(self.preprocessed_dataset_folder_base) / "splits_final.json",
                fold=self.fold,
                cases=frozenset(cases),
            )
        split: tuple[list[str], list[str]] = stock.do_split()
        return split

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint, whole or not at all."""
        stock: Any = super()
        with self._conduct.pace.measured("checkpoint"), replacing(Path(filename)) as partial:
            stock.save_checkpoint(str(partial))
        self._report_checkpoint(Path(filename))

    def plot_network_architecture(self) -> None:
        """Not drawn: nnU-Net's plotting library no longer works, and trying costs a pass."""

    def _save_debug_information(self) -> None:
        """Not written: it starts a shell for the host's name, and the run's record says more."""

    def _stream(self, loader: Any, *, name: str, first: int, workers: int) -> BatchStream:
        return BatchStream(
            loader,
            seed=self._conduct.course.seed,
            stream=name,
            first=first,
            workers=workers,
        )

    def _run_epoch(self) -> None:
        trainer: Any = self
        clock, epoch = self._conduct.clock, self.current_epoch
        began, (done_before, _) = clock(), self._done_of_epoch()
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        self._settle_encoder()
        self._train_iterations()
        trained = clock()
        trainer.on_train_epoch_end(self._outputs[: self.num_iterations_per_epoch])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            self._validation_iterations()
        self._pause_before("epoch_end")
        with self._conduct.pace.measured("epoch_end"):
            with torch.no_grad():
                trainer.on_validation_epoch_end(self._outputs[self.num_iterations_per_epoch :])
            self._outputs = []
            trainer.on_epoch_end()  # moves current_epoch on
        iterations = self.num_iterations_per_epoch - done_before
        self._conduct.emit(
            {
                "event": "epoch",
                "epoch": epoch,
                "epochs": self.num_epochs,
                "train_loss": self._logged("train_losses"),
                "val_loss": self._logged("val_losses"),
                "pseudo_dice": self._logged("mean_fg_dice"),
                "lr": self._logged("lrs"),
                "seconds": clock() - began,
                "seconds_per_iteration": (trained - began) / iterations if iterations else None,
                **gpu_peak_mib(self.device),
            }
        )

    def _settle_encoder(self) -> None:
        """Frozen in the course's first epochs: by the epoch alone, so that resuming agrees."""
        frozen_epochs = self._conduct.course.frozen_encoder_epochs
        if self.current_epoch < frozen_epochs:
            freeze(encoder_of(self.network))
        elif frozen_epochs:
            thaw(encoder_of(self.network))

    def _done_of_epoch(self) -> tuple[int, int]:
        """Iterations of the current epoch that are done: of its training, of its validation."""
        trained = min(len(self._outputs), self.num_iterations_per_epoch)
        return trained, len(self._outputs) - trained

    def _train_iterations(self) -> None:
        trainer: Any = self
        done, _ = self._done_of_epoch()
        first_of_epoch = self.current_epoch * self.num_iterations_per_epoch
        for iteration in range(done, self.num_iterations_per_epoch):
            self._pause_before("iteration")
            with self._conduct.pace.measured("iteration"):
                batch = next(self.dataloader_train)
                # for dropout and the like
                seed_generators(
                    self._conduct.course.seed, stream="network", index=first_of_epoch + iteration
                )
                self._outputs.append(trainer.train_step(batch))

    def _validation_iterations(self) -> None:
        trainer: Any = self
        _, done = self._done_of_epoch()
        for _ in range(done, self.num_val_iterations_per_epoch):
            self._pause_before("validation_iteration")
            with self._conduct.pace.measured("validation_iteration"):
                self._outputs.append(trainer.validation_step(next(self.dataloader_val)))

    def _pause_before(self, work: Work) -> None:
        """Save where it is time to. Raises Interrupted where ``work`` should not be begun."""
        conduct = self._conduct
        if conduct.clock() - self._saved_at >= conduct.checkpoint_every_s:
            self._save()
        reason = conduct.pace.reason_to_stop(work, "checkpoint")
        if reason is None:
            return
        self._save()
        conduct.emit(conduct.pace.stopping(reason))
        raise Interrupted

    def _save(self) -> None:
        """Write the resume file of the current position, if it is not there yet."""
        position = Position(self.current_epoch, len(self._outputs))
        if position == self._saved:
            return
        conduct = self._conduct
        with conduct.pace.measured("checkpoint"):
            file = write_resume(
                resume_folder(conduct.attempts[-1]), position=position, state=self._state(position)
            )
        self._report_checkpoint(file, epoch=position.epoch, iteration=position.iteration)
        self._alone = self._alone or supersede(conduct.attempts)
        self._saved, self._saved_at = position, conduct.clock()

    def _state(self, position: Position) -> dict[str, Any]:
        # The epoch under way is logged again when it is continued.
        logged = {key: of[: position.epoch] for key, of in self.logger.get_checkpoint().items()}
        return {
            "network_weights": unwrapped(self.network).state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler and self.grad_scaler.state_dict(),
            "logging": plain(logged),
            "_best_ema": plain(self._best_ema),
            "current_epoch": position.epoch,
            "init_args": {"configuration": self.my_init_kwargs["configuration"]},
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            OUR_KEY: {
                "iteration": position.iteration,
                "course": asdict(self._conduct.course),
                "outputs": plain(self._outputs),
            },
        }

    def _plot_when_due(self, folder: str) -> None:
        if self._conduct.clock() - self._plotted_at >= PLOT_EVERY_S:
            self._plot_progress(folder)
            self._plotted_at = self._conduct.clock()

    def _logged(self, key: str) -> float | None:
        """The last value of a curve; None for what JSON cannot say, such as the Dice of nothing."""
        value = float(self.logger.get_value(key, step=-1))
        return value if math.isfinite(value) else None

    def _report_checkpoint(self, file: Path, **position: int) -> None:
        seconds = self._conduct.pace.last("checkpoint")
        event = {"event": "checkpoint", "file": str(file), "seconds": seconds, **position}
        self._conduct.emit(event)
