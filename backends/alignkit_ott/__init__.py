"""The OTT backend: translation-invariant costs of OTT-JAX, and distances between samples."""
