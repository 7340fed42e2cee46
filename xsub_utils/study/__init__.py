"""The study: notebooks' tables and figures, and the configurations that decide them."""
