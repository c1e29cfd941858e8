"""`shoptalk`, the command line for people: `main` puts it together, one file a group of verbs, `output` prints.

What a verb does is a statement in `sql/queries` or a function in `schema.sql`; here is only how one asks for it.
"""
