"""Trains, scores and pictures one model: `python main.py --help`."""

from iwae_tf.commands import main

if __name__ == "__main__":
    main()
