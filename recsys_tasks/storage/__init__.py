"""Files that the tasks of all hosts share: folders of this machine or of a remote store, and the stores' addresses."""
