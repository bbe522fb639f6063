"""The compiled modules of the room ``tcp`` (sources in ``ext/tcp``)."""
