"""The network: a mask, tokens, attention, what is read out. Knows no file of weights and no repo."""
