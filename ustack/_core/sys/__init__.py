"""The compiled modules of the room ``sys`` (sources in ``ext/sys``)."""
