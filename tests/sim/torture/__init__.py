"""Torture: networks, faults and misbehaving peers drawn from a seed, and what must hold after every event.

``world`` draws and plays, ``peer`` is the model peer that misbehaves, ``watch`` looks at every packet and at every
stack, ``wire`` and ``stream`` are what they share. The program is tools/torture.
"""
