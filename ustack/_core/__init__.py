"""The compiled core. Only ``ustack._core.py`` holds Python objects; nothing here is public."""
