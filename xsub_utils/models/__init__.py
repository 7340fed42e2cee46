"""Models: what each architecture is made of, how encoders are loaded and pre-trained, and batches for them."""
