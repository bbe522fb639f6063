"""The compiled modules of the room ``link`` (sources in ``ext/link``)."""
