"""How many bits of knowledge so many parameters hold (allenzhu2024capacity): the count, the data, the models."""
