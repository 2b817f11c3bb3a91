"""What a user can get wrong, said in one line."""


class UserError(ValueError):
    """An error the user can mend: its text is one line with the value, what is allowed and what to do."""


def in_one_line(error: UserError | OSError) -> str:
    """Return what to say of an error that the user can mend; raise any other again.

    Raises:
        OSError: it names no file, and is none of the user's.
    """
    if isinstance(error, UserError):
        return str(error)
    if error.filename is None:
        raise error
    return f"{error.filename}: {error.strerror}; choose another place, or mend this one"
