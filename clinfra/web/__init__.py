"""How clinfra speaks HTTP; knows no product."""
