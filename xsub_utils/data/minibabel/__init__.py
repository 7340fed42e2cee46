"""MiniBabel: six invented languages whose relatedness is known, and tasks in them."""
