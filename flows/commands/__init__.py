"""One module a command of ``alike``: parse, call one function, report."""
