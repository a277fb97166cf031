"""What Triton runs beside a rendered `config.pbtxt`: copied as they are, checked as they are here.

They import nothing of enginesmith, so that a repository serves on any Triton that has the runtime.
"""
