"""Own cores: a decoder, its engine and what a sequence needs. Knows nothing about calls, processes or schedules."""
