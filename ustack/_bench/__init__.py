"""What ``ustack bench`` runs: the stack and the kernel, in the same run, in paired rounds, on the same kind of wire.

``form`` has the rows, their names and their statistics; ``cases`` is the table of what is measured; ``work`` the
functions that are timed, the same source for both stacks; ``worker`` the process of one endpoint; ``beds`` the wires;
``runner`` the rounds; ``machine`` what is known about the computer.
"""
