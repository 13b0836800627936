"""The page of one's own account, in sections: each has a template, a view, and a module with its forms.

A section `factors` is the template `account/factors.html`, an entry of `VIEWS`, the sentences of its forms in `NEWS`,
and a module of routes whose forms answer by `again("factors")` and `signed_out`.
"""
