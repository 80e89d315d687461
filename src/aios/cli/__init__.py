"""The command `aios`: one file a verb. Knows the SDK; serves with the gateway, measures with the evaluation."""
