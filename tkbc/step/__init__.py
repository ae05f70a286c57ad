"""One optimizer step: loss, regularizers, optimizers, and numbers gone wrong."""
