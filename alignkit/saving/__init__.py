"""Saving: fitted results as files of numbers and JSON, in the format of safetensors, and back; nothing is pickled."""
