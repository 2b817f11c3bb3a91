"""What a user can get wrong, said in one line."""


class UserError(ValueError):
    """An error the user can mend: its text is one line with the value, what is allowed and what to do."""
