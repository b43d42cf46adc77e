"""A training step as a user writes it, for programs that tests run as files."""

STEP = """@flamec.compile
def step(x, y):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss
"""
