"""The Discord edge: authenticate the interaction into an Actor, parse, call one service method, render."""
