"""Task 05: conditional IWAE on labels y, with a standard normal prior; k = 1, 5, 50.

Like task 04, but the prior of z does not depend on y. The label acts only through the
decoder, so z is left with the style.

    python tasks/task05.py [--epochs 50] [--smoke]
"""

from task04 import main as conditional

from iwae_tf import cli


def main(task):
    """Trains three models; writes a figure of samples and a table."""
    conditional(task, conditional_prior=False)


if __name__ == "__main__":
    cli.task(main, __file__, epochs=50, run_dir="runs with --conditional only.")
