"""mirror.conf: lines of `key = value`; `#` begins a comment line."""


def read_config(path):
    """The settings as a dictionary of strings; empty if there is no such file."""
    settings = {}
    try:
        with open(path) as lines:
            for line in lines:
                key, equals, value = line.partition("=")
                if equals and not line.lstrip().startswith("#"):
                    settings[key.strip()] = value.strip()
    except FileNotFoundError:
        pass
    return settings
