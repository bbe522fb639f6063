"""The compiled modules of the room ``stack`` (sources in ``ext/stack``)."""
