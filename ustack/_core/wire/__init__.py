"""The compiled modules of the room ``wire`` (sources in ``ext/wire``)."""
