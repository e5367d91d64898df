"""Rankings by people, and the discriminator trained on them."""
