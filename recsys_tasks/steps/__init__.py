"""The steps of the loop, as the DAGs and the command line call them: settings in, small references out.

A module per DAG, so that a task imports what it needs and no more.
"""
