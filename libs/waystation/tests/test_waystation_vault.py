"""`waystation vault`: what a data protection officer gets."""

from waystation.commands.vault_commands import whole_scope


class Pages:
    """A vault that answers with a person a page."""

    def __init__(self, *tokens):
        self.tokens = tokens

    def get(self, service, path, params):
        assert (service, path, params["provider"]) == ("vault", "/v1/breach-scope", "smtp.default")
        place = self.tokens.index(params["after"]) + 1 if "after" in params else 0
        following = self.tokens[place] if place + 1 < len(self.tokens) else None
        return {"persons": 3, "items": [{"recipient_token": self.tokens[place]}], "next": following}


def test_the_scope_of_a_breach_names_the_persons_of_every_page():
    scope = whole_scope(Pages("rt_a", "rt_b", "rt_c"), {"provider": "smtp.default"})
    assert [one["recipient_token"] for one in scope["items"]] == ["rt_a", "rt_b", "rt_c"]
    assert (scope["persons"], scope["next"]) == (3, None)
