"""The compiled modules of the room ``udp`` (sources in ``ext/udp``)."""
