"""The intermediate representation: pure data and pure functions.

Nothing here touches a device, reads the environment or imports another room
of the house (``flamec``, ``codegen``, ``runtime``).
"""
