"""MoMALisa measured against others and against what it promises."""
