// Empty: of numbers of this kind, nothing that is used here speaks.
#pragma once
