"""ca-hpc: fine-tuning of spinal cord segmentation on clusters, from one YAML file."""

__version__ = "0.1.0"
