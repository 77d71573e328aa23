"""From a registered version to a model that serves: bundle, push, verify, activate, roll back."""
