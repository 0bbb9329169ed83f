"""The OpenAPI document, its examples, and the meaning of each type of problem."""
