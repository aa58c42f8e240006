"""nvmecontrol: the command line, after FreeBSD's nvmecontrol(8).

`main` is the entry point and the only module that knows a transport; `cli` is the group of
commands, each loaded when it is run; `node` talks to the daemon through the control node;
`failure` is what can go wrong and with which exit code; `text` holds everything that prints.
"""
