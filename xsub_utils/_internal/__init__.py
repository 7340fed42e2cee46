"""What the rest of the package stands on: the artifact store, fingerprints, files, paths, checks of arguments."""
