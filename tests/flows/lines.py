"""What a run says while it goes on, with the level of each line."""


class Lines(list):
    """Lines in their order; `levels` are theirs."""

    def __init__(self):
        super().__init__()
        self.levels = []

    def say(self, line, /, *, level="info"):
        self.append(line)
        self.levels.append(level)
