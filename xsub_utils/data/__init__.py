"""Tasks in several languages: from files, from the hub, from memory, or invented (`minibabel`)."""
