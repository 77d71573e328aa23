"""Full-text search of a catalog: language analysis, index, query understanding, ranking signals, suggestions.

Light imports only; the endpoint runs it.
"""
