"""The course that `minireactor learn` gives. Nothing else in minireactor knows of it.

A lesson is a folder, whose number and name are its place in the course:

    program.py          what the lesson shows: at most 80 lines, runs by itself, ends, and prints
                        what it has measured. Its asserts are what the text claims.
    text.en.md, .zh.md  the explanation, with lines of the program and of its output
    exercise.py         a program with a fault, and a check that says what is wrong with it
    solution.py         the same without the fault; the check is the same, line for line

More files are parts of the program. `minireactor learn --check` runs all of it and holds each
quoted line against what it quotes: see `check`.
"""
