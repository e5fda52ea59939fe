"""Caption scores as ``pycocoevalcap`` computes them: tokens, METEOR's and CoreNLP's programs, and BLEU, ROUGE-L and CIDEr-D of tokens."""
