"""The compiled modules of the room ``base`` (sources in ``ext/base``)."""
