"""How alike masks are, and how alike representations are."""
