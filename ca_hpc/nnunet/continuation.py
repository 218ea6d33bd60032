"""Go on with a fold: start, continue, or only validate.

Which of these is decided on the node, from the files present: nnU-Net's ``--c`` without a
checkpoint trains from random weights, and refuses ``-pretrained_weights`` beside it (nnU-Net
2.8.1, run_training.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ca_hpc.errors import CaHpcError
from ca_hpc.nnunet.attempt_files import discard_partials
from ca_hpc.nnunet.batches import seed_generators
from ca_hpc.nnunet.calls import FoldCall, FoldOutcome, Start
from ca_hpc.nnunet.checkpoints import Emit, link_or_copy, replacing, weights_sha256
from ca_hpc.nnunet.course import Course
from ca_hpc.nnunet.device import take_device
from ca_hpc.nnunet.interruption import Interrupted, StopRequest
from ca_hpc.nnunet.pace import Clock, Pace
from ca_hpc.nnunet.pretrained import LoadedWeights, load_into, shuffle, unwrapped, verified_sha256
from ca_hpc.nnunet.resume_files import Resume, broken_files, take_over_newest
from ca_hpc.nnunet.sliding_window import Origin
from ca_hpc.nnunet.torch_tensors import as_torch
from ca_hpc.nnunet.trainer import Conduct, composed
from ca_hpc.nnunet.trainer_search import resolve_trainer
from ca_hpc.nnunet.validation import validate_fold
from ca_hpc.store.digests import sha256_file
from ca_hpc.weights.checkpoint import read_checkpoint

COURSE_NAME: Final = "course.json"
# Of a finished training, in the fold's folder and above it.
FOLD_FILES: Final = ("checkpoint_final.pth", "checkpoint_best.pth", "progress.png", COURSE_NAME)
MODEL_FILES: Final = ("plans.json", "dataset.json", "dataset_fingerprint.json")


@dataclass(frozen=True, slots=True)
class Beginning:
    """What this attempt goes on from: a finished training, a resume file, or nothing."""

    finished: Path | None
    resume: Resume | None
    pretrained_sha256: str | None

    @property
    def source(self) -> str | None:
        file = self.finished or (self.resume and self.resume.found)
        return str(file) if file else None


def go_on(call: FoldCall, *, emit: Emit, clock: Clock, stop: StopRequest) -> FoldOutcome:
    """See ``fold_training.train_fold``, which sets the stage for this."""
    pace = Pace(clock=clock, ends_at_s=call.ends_at_s, stop=stop)
    trainer = _build_trainer(call)
    discard_partials(call.earlier_attempts)
    begin = _beginning(call, folder=Path(trainer.output_folder), emit=emit)
    _prepare(trainer, call, begin=begin, emit=emit, pace=pace)
    weights = summary = None
    try:
        if begin.finished is None:
            trainer.run_training()
        weights, summary = _validate(trainer, call, emit=emit, pace=pace)
    except Interrupted:
        pass
    outcome = FoldOutcome(
        finished=summary is not None,
        fold_folder=Path(trainer.output_folder),
        epochs_done=trainer.current_epoch,
        resumed_from=begin.source,
        pretrained_sha256=begin.pretrained_sha256,
        weights_sha256=weights,
        summary_file=summary,
    )
    emit({"event": "end", "finished": outcome.finished, "epochs_done": outcome.epochs_done})
    return outcome


def _build_trainer(call: FoldCall) -> Any:
    device = take_device(call.device, threads=call.torch_threads)
    plans = json.loads(call.plans_file.read_text())
    if call.configuration not in plans["configurations"]:
        raise CaHpcError(
            f"{call.plans_file} has no configuration {call.configuration}.",
            hint=f"It has {', '.join(plans['configurations'])}.",
        )
    if plans["configurations"][call.configuration].get("previous_stage"):
        raise CaHpcError(
            f"{call.configuration} continues another configuration's predictions (cascade).",
            hint="Train 3d_fullres, 3d_lowres or 2d.",
        )
    plans["continue_training"] = False  # taken out again by the trainer; for its web logger only
    return composed(resolve_trainer(call.trainer))(
        plans=plans,
        configuration=call.configuration,
        fold=call.fold,
        dataset_json=json.loads(call.dataset_json_file.read_text()),
        device=device,
    )


def _course(call: FoldCall, *, pretrained_sha256: str | None) -> Course:
    settings, start = call.settings, call.start
    return Course(
        trainer=call.trainer,
        configuration=call.configuration,
        fold=str(call.fold),
        plans_sha256=sha256_file(call.plans_file),
        epochs=settings.epochs,
        iterations_per_epoch=settings.iterations_per_epoch,
        validation_iterations_per_epoch=settings.validation_iterations_per_epoch,
        seed=settings.seed,
        initial_learning_rate=settings.initial_learning_rate,
        warmup_epochs=settings.warmup_epochs,
        frozen_encoder_epochs=settings.frozen_encoder_epochs,
        weights=start.weights if start else "random",
        pretrained_sha256=pretrained_sha256,
        stem=start.stem if start else None,
        head=start.head if start else None,
    )


def _beginning(call: FoldCall, *, folder: Path, emit: Emit) -> Beginning:
    """Finished training, else newest sound resume file, else fresh; never fresh by mistake.

    On a continuation the pretrained weights are not touched: their file may be gone by then.
    """
    finished = _newest_finished(call, folder=folder, emit=emit)
    if finished is not None:
        recorded = _recorded_course(finished)
        _check_course(call, recorded, place=finished)
        return Beginning(finished, None, recorded.pretrained_sha256)
    resume = take_over_newest(call.attempts, emit=emit)
    if resume is not None:
        _check_course(call, resume.course, place=resume.file)
        return Beginning(None, resume, resume.course.pretrained_sha256)
    start = call.start
    sha256 = verified_sha256(start.file, start.sha256) if start else None
    if broken := broken_files(call.attempts):
        emit({"event": "start-over", "broken": [str(file) for file in broken]})
        _say(f"WARNING: all resume files are broken ({len(broken)}): the training starts again")
    return Beginning(None, None, sha256)


def _newest_finished(call: FoldCall, *, folder: Path, emit: Emit) -> Path | None:
    """The final checkpoint of the latest attempt that has a sound one."""
    place = folder.relative_to(call.attempt_folder)
    for attempt in reversed(call.attempts):
        final = attempt / place / "checkpoint_final.pth"
        if not final.is_file():
            continue
        try:
            as_torch(read_checkpoint(final).tensors)  # the values too
            _recorded_course(final)
        except (CaHpcError, OSError, ValueError, KeyError) as error:
            emit({"event": "checkpoint-skipped", "file": str(final), "reason": str(error)})
            continue
        return final
    return None


def _recorded_course(checkpoint: Path) -> Course:
    return Course.recorded(json.loads((checkpoint.parent / COURSE_NAME).read_text()))


def _check_course(call: FoldCall, recorded: Course, *, place: Path) -> None:
    pretrained = None
    if call.start is not None:
        unverified = recorded.pretrained_sha256 or f"that of {call.start.file}"
        pretrained = call.start.sha256 or unverified
    _course(call, pretrained_sha256=pretrained).must_equal(recorded, place=place)


def _prepare(
    trainer: Any,
    call: FoldCall,
    *,
    begin: Beginning,
    emit: Emit,
    pace: Pace,
) -> None:
    """Bring the trainer to where this attempt begins, and say so in a ``start`` event."""
    course = _course(call, pretrained_sha256=begin.pretrained_sha256)
    trainer.conduct_by(
        Conduct(
            course=course,
            workers=call.settings.workers,
            checkpoint_every_s=call.settings.checkpoint_every_s,
            attempts=call.attempts,
            emit=emit,
            pace=pace,
        )
    )
    seed_generators(course.seed, stream="initial weights", index=0)
    trainer.initialize()
    loaded = None
    if begin.finished is not None:
        _take_over_model(trainer, begin.finished)
    elif begin.resume is not None:
        _take_over_best(trainer, call)
        trainer.continue_from(begin.resume)
    elif call.start is not None:
        loaded = _load(trainer, call.start, seed=course.seed)
    _say(_told(begin, course))
    with replacing(Path(trainer.output_folder) / COURSE_NAME) as partial:
        partial.write_text(json.dumps(asdict(course), indent=2))
    emit(
        {
            "event": "start",
            "epoch": trainer.current_epoch,
            "iteration": begin.resume.position.iteration if begin.resume else 0,
            "resumed_from": begin.source,
            "weights": course.weights,
            "pretrained_sha256": begin.pretrained_sha256,
            "head": course.head,
            "repeated_channels": loaded and loaded.repeated,
            "warmup_epochs": course.warmup_epochs,
            "frozen_encoder_epochs": course.frozen_encoder_epochs,
            "parameters": sum(p.numel() for p in trainer.network.parameters()),
            "device": torch.cuda.get_device_name() if call.device == "cuda" else "cpu",
            "torch_threads": torch.get_num_threads(),
            "workers": call.settings.workers,
            # which of torch's kernels compute decides about the last bits
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "cudnn": torch.backends.cudnn.version() if call.device == "cuda" else None,
        }
    )


def _told(begin: Beginning, course: Course) -> str:
    """What was loaded, for the log."""
    if begin.finished is not None:
        return f"{begin.finished} is a finished training, from {course.start}: only validated"
    if begin.resume is not None:
        position = begin.resume.position
        return (
            f"continues {begin.resume.found} at epoch {position.epoch} iteration "
            f"{position.iteration}, trained from {course.start}"
        )
    if course.pretrained_sha256 is None:
        return "starts from random weights"
    return f"pretrained {course.start} loaded"


def _say(text: str) -> None:
    """One line into the task's log, where nnU-Net writes too."""
    print(text, flush=True)


def _load(trainer: Any, start: Start, *, seed: int) -> LoadedWeights:
    tensors = as_torch(read_checkpoint(start.file).tensors)
    loaded = load_into(trainer.network, tensors, stem=start.stem, head=start.head)
    if start.weights == "shuffled":
        shuffle(trainer.network, names=loaded.loaded, seed=seed)
    return loaded


def _take_over_model(trainer: Any, final: Path) -> None:
    """Make this attempt's folder that of the finished training, and load its weights."""
    fold_folder = Path(trainer.output_folder)
    pairs = [(final.parent / name, fold_folder / name) for name in FOLD_FILES]
    pairs += [(final.parent.parent / name, fold_folder.parent / name) for name in MODEL_FILES]
    for source, target in pairs:
        if source.is_file():
            link_or_copy(source, target)
    checkpoint = read_checkpoint(final)
    unwrapped(trainer.network).load_state_dict(as_torch(checkpoint.tensors))
    trainer.inference_allowed_mirroring_axes = checkpoint.content[
        "inference_allowed_mirroring_axes"
    ]
    trainer.current_epoch = checkpoint.content["current_epoch"]


def _take_over_best(trainer: Any, call: FoldCall) -> None:
    """The best checkpoint so far stays the best until a better epoch comes."""
    best = Path(trainer.output_folder) / "checkpoint_best.pth"
    place = best.relative_to(call.attempt_folder)
    for attempt in reversed(call.attempts):
        if (attempt / place).is_file():
            return link_or_copy(attempt / place, best)


def _validate(trainer: Any, call: FoldCall, *, emit: Emit, pace: Pace) -> tuple[str, Path]:
    """Validate with the final or best weights; return their digest and ``summary.json``."""
    fold_folder, settings = Path(trainer.output_folder), call.settings
    if settings.validation_checkpoint == "best" and settings.epochs:
        best = read_checkpoint(fold_folder / "checkpoint_best.pth")
        unwrapped(trainer.network).load_state_dict(as_torch(best.tensors))
    digest = weights_sha256(unwrapped(trainer.network).state_dict())
    place = fold_folder.relative_to(call.attempt_folder) / "validation"
    summary = validate_fold(
        trainer,
        origin=Origin(
            {str(call.fold): digest},
            tile_step=settings.tile_step,
            mirroring=settings.mirroring,
            probabilities=settings.probabilities,
        ),
        earlier_folders=[attempt / place for attempt in reversed(call.earlier_attempts)],
        emit=emit,
        pace=pace,
    )
    return digest, summary
