// Empty: see gloo/context.h in the folder above.
#pragma once
