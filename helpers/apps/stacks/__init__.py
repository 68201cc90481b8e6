"""The same small service on four stacks, to be measured: what a client says comes back; what begins with `!` goes to everybody.

Each is what the stack's own documentation would have a newcomer write, with nothing to make it faster. The variable
`STACKS_QUEUE`, a Redis URL, connects several processes of one stack; `STACKS_LAYER=core` chooses the older one of the Redis
layers of Channels.
"""
