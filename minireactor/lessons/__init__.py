"""The course that `minireactor learn` gives. Nothing else in minireactor knows of it.

A lesson is a folder, whose number and name are its place in the course:

    program.py          what the lesson shows: at most 80 lines, runs by itself, ends, and prints
                        what it has measured. Its asserts are what the text claims.
    text.en.md, .zh.md  the text: a question, the program's output, then the explanation, with
                        lines of the program
    exercise.py         a program with a fault, and a check that says what is wrong with it
    solution.py         the same without the fault; the check is the same, line for line
    zh.txt              pairs of lines, English and Chinese: the first line of each program, and
                        what the check can print

More files are parts of the program. `minireactor learn --check` runs all of it and compares each
quoted line with the file or output that it comes from: see `check`.

The modules may import `view` and lower levels; a lesson's programs import what they show. Read
first: `catalogue`, which reads these files, then `command`, which speaks to the learner.
"""
