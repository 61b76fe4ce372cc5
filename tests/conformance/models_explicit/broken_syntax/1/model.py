"""Is no Python: the text is compiled at import so that the file itself stays readable to tools."""

exec("class TritonPythonModel")
